"""Result files and pictures: plain arrays in, complete files out."""

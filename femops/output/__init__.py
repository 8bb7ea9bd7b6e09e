"""Result files and pictures, written atomically from plain arrays."""

"""Case and study files: what users write, read, validated and typed."""

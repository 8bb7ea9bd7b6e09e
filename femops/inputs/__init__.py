"""Case and study files: reading, validation and typed models."""

"""Text data: column layouts, files, splits and audits. Torch-free."""

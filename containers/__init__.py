"""What images are built from, and `check`, which builds one and looks at what came out."""

"""The report's page: parts, what they say, and the template that they are laid out by."""

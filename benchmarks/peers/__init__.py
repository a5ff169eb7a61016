"""The servers that candor's is measured against."""

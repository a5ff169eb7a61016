"""The routes besides BentoML's, one module for each group, and the one OpenAPI document for all of them."""

"""The manifests: rendered, validated, and their alerts tried. They need no cluster."""

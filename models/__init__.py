"""What training and serving must agree on, and nothing else. Neither weights nor network architectures live here."""

"""What an answer's confidence is made of: fitted by training, computed by the service. Numpy, and no network."""

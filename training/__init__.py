"""A folder of images in, a calibrated and verified artifact out. Knows `models`, never `service`."""

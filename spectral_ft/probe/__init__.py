"""What a few calibration batches show of every matrix: gradients, their sketches, principal inputs."""

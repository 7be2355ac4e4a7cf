"""The recipe `reconstruction`: one autoencoder's reconstruction error."""

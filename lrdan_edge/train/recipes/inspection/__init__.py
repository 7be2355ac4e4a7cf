"""The recipe `inspection`: a U-Net that restores painted defects and marks them."""

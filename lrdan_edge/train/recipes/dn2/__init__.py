"""The recipe `dn2`: DN2 (arXiv 2002.10445) on a frozen backbone; one pass over the good images, no gradient steps."""

"""Unit files that the package ships; `docs` say how to install them."""

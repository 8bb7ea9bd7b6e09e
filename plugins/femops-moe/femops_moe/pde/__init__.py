"""The problems of the paper (arXiv 2402.13412): fields that satisfy an equation by least squares of their experts."""

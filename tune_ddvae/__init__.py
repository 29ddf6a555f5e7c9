"""Studies of disentangling VAEs, after Mathieu et al. (ICML 2019, arXiv:1812.02833)."""

__version__ = "0.1.0"

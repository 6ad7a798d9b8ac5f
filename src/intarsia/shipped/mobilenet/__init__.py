"""MobileNetV2 1.0 (Sandler et al. 2018; ImageNet), the picture tower of ``mini``."""

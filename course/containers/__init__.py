"""The course's images, and containers that run them."""

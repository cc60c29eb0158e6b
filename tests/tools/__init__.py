"""What maintainers run: ``make release``, ``make public-names``, ``make pages``."""

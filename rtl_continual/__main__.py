"""``python -m rtl_continual`` is ``rtl``."""

from rtl_continual.cli import main

if __name__ == "__main__":
    main()

"""`python -m persona` is the command `persona`."""

from persona.cli.app import main

if __name__ == "__main__":
    main()

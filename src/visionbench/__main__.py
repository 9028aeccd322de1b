"""`python -m visionbench`."""

from visionbench.cli import main

raise SystemExit(main())

import sys
from pathlib import Path

# Helpers that tests in several folders share.
sys.path.insert(0, str(Path(__file__).parent))

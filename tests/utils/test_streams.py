# SPDX-License-Identifier: Apache-2.0
"""Closed standard streams, in processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = "import sys; from diffnext.utils.streams import open_streams as f; f(); "
CODE += "print(file=sys.stdout); print(file=sys.stderr); sys.exit(open(sys.executable).fileno())"


@pytest.mark.parametrize("closed", ["", "2>&-", "0>&- 1>&- 2>&-"])
def test_no_file_takes_the_place_of_a_closed_stream(closed):
    command = ["sh", "-c", f'exec "$0" -c "{CODE}" {closed}', sys.executable]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 3

# SPDX-License-Identifier: Apache-2.0
"""What hangs on the loop: logging, averaging, saving."""

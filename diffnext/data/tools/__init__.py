# SPDX-License-Identifier: Apache-2.0
"""What can be done with a finished cache: look into it, check and repair it, combine, convert."""

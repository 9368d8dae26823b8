# SPDX-License-Identifier: Apache-2.0
"""Training of diffusion models on a cache of latents."""

from diffnext import codewithgpu_compat

__version__ = "0.1.0"

codewithgpu_compat.install()

# SPDX-License-Identifier: Apache-2.0
"""Autoencoders between pixels and latents."""

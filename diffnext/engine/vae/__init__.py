# SPDX-License-Identifier: Apache-2.0
"""Training of the autoencoders of pictures and videos: data, losses, loop, what is exported."""

# SPDX-License-Identifier: Apache-2.0
"""Examples between the disk and the model: records, their order, batches."""

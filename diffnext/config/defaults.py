# SPDX-License-Identifier: Apache-2.0
"""Every option of a run with its default. The comment above each is its text in docs/config.md."""

from diffnext.config.node import CfgNode
from diffnext.config.values import OneOf

_C = CfgNode()

# Number of processes that train together: one a GPU, or gloo processes where there is no GPU. On
# several nodes this is the number of processes on each.
_C.NUM_GPUS = 1
# Seed of everything random: order of the data, captions, noise, timesteps, masks.
_C.RNG_SEED = 3
# Index of the GPU that a single process uses. One that torchrun itself has started takes its local rank's.
_C.GPU_ID = 0

# What is trained: the family of networks and its task.
_C.PIPELINE = CfgNode()
# Training pipeline: nova_train_t2i (text to image), nova_train_t2v (text to video), nova_train_c2i
# (class to image), or module:Class.
_C.PIPELINE.TYPE = ""
# Components to take from elsewhere than MODEL.WEIGHTS, by name: a folder, or "" to go without, such
# as {vae: /data/other_vae, text_encoder: ""}.
_C.PIPELINE.MODULES = CfgNode(new_allowed=True)

# The network that learns.
_C.MODEL = CfgNode()
# Component of the pipeline that learns; also the name of its folder in a snapshot.
_C.MODEL.TYPE = "transformer"
# Settings of a network with new random weights, such as {arch: [...], image_size: 64}; what is not
# named here comes from the network's config in MODEL.WEIGHTS. Empty: the weights are loaded.
_C.MODEL.CONFIG = CfgNode(new_allowed=True)
# Folder of a network, or of snapshots of which the newest is taken, whose weights a network with new
# random weights starts from, such as one of pictures for one of videos: tensors of equal name and
# shape are taken, the others stay random.
_C.MODEL.START_FROM = ""
# Folder of a pipeline in the layout of diffusers, with model_index.json.
_C.MODEL.WEIGHTS = ""
# Number format of the forward and backward pass: bfloat16, float16 (with loss scaling) or float32.
# The weights that the optimizer moves are float32 always.
_C.MODEL.PRECISION = "bfloat16"

# What is minimised.
_C.METHOD = CfgNode()
# Training method: finetune (the family's own loss), or module:Class.
_C.METHOD.TYPE = "finetune"
# Options of the method's class, by name.
_C.METHOD.CONFIG = CfgNode(new_allowed=True)

# How the network is spread over the processes.
_C.PARALLEL = CfgNode()
# single, ddp, fsdp or deepspeed; auto is single for one process, deepspeed with --deepspeed, else ddp.
_C.PARALLEL.BACKEND = "auto"
# Options of the backend's class, by name, such as {replicate: 2} of fsdp.
_C.PARALLEL.CONFIG = CfgNode(new_allowed=True)

# The optimizer, its schedule, and what happens every so many steps.
_C.SOLVER = CfgNode()
# Learning rate after the warm-up.
_C.SOLVER.BASE_LR = 1e-4
# Learning rate at the end of cosine_decay, linear_decay and polynomial_decay.
_C.SOLVER.MIN_LR = 0.0
# Number of optimizer steps of the run.
_C.SOLVER.MAX_STEPS = 2**31 - 1
# Steps between two lines of the log.
_C.SOLVER.DISPLAY = 20
# Steps between two updates of the averaged weights; TRAIN.MODEL_EMA decays once an update.
_C.SOLVER.EMA_EVERY = 100
# Steps between two snapshots; one more is written at the end.
_C.SOLVER.SNAPSHOT_EVERY = 5000
# Beginning of a snapshot's name: checkpoints/PREFIX_iter_STEP. Empty: the value of MODEL.TYPE.
_C.SOLVER.SNAPSHOT_PREFIX = ""
# How many snapshots remain, the oldest being removed. 0: all.
_C.SOLVER.SNAPSHOT_KEEP = 0
# Snapshots of steps divisible by this remain for ever, beside the last SNAPSHOT_KEEP. 0: none.
_C.SOLVER.SNAPSHOT_KEEP_EVERY = 0
# Write snapshots while training goes on, from a copy in the host's memory; False: training waits for the
# disk, and needs no memory for a copy.
_C.SOLVER.SNAPSHOT_ASYNC = True
# Course of the learning rate after the warm-up: constant, steps_with_decay, cosine_decay,
# linear_decay or polynomial_decay.
_C.SOLVER.LR_POLICY = "constant"
# Steps at which steps_with_decay multiplies the rate by DECAY_GAMMA, ascending.
_C.SOLVER.DECAY_STEPS = []
# Factor of steps_with_decay.
_C.SOLVER.DECAY_GAMMA = 0.5
# Exponent of polynomial_decay.
_C.SOLVER.DECAY_POWER = 2.0
# Steps in which the rate rises linearly from BASE_LR * WARM_UP_FACTOR to BASE_LR.
_C.SOLVER.WARM_UP_STEPS = 250
# Share of BASE_LR that the warm-up begins with.
_C.SOLVER.WARM_UP_FACTOR = 1e-3
# Class of torch.optim, muon, a class of bitsandbytes of 8 bits such as AdamW8bit, or module:Class.
_C.SOLVER.OPTIMIZER = "AdamW"
# Further arguments of the optimizer's class, by name, such as {momentum: 0.9} of SGD or {eps: 1e-6}; betas
# among them take the place of ADAM_BETA2.
_C.SOLVER.OPTIMIZER_CONFIG = CfgNode(new_allowed=True)
# Decay rate of the second moment of Adam's kind; that of the first is 0.9.
_C.SOLVER.ADAM_BETA2 = 0.95
# Decay of weights, in units of the learning rate.
_C.SOLVER.WEIGHT_DECAY = 0.02
# What does not decay: norm (normalisation layers), bias (parameters of that name), and patterns of
# parameters' names, in which * stands for anything.
_C.SOLVER.NO_DECAY = ["norm"]
# Factors of the learning rate by pattern of names, such as {text_embed: 0.1, "*.head.*": 2}; those of
# several patterns multiply.
_C.SOLVER.LR_SCALE = CfgNode(new_allowed=True)
# Micro-batches whose gradients are averaged before each step.
_C.SOLVER.ACCUM_STEPS = 1
# Largest norm of all gradients together; longer ones are scaled down to it. 0: no limit.
_C.SOLVER.CLIP_GRAD = 0.0
# Steps in a row with a loss or gradient that is not finite, after which the run ends; such steps leave
# the weights alone, and logs/nonfinite names their samples. 0: go on for ever.
_C.SOLVER.MAX_SKIPPED = 100
# Hours that a process may run, loading included; then the step is finished, a checkpoint is written,
# and the same command goes on. 0: no limit.
_C.SOLVER.MAX_HOURS = 0.0
# Seconds that a step may take before the run is ended with the stacks of all processes; four times as
# many for the first step of a process, and for saving and evaluating between two steps. 0: no limit.
_C.SOLVER.HANG_TIMEOUT = 1800.0

# The data, and how a step is computed.
_C.TRAIN = CfgNode()
# Folder or URL (s3://, gs://, http://) of the latent cache, a record folder. Several: a list of them,
# text as "a:2,b:1", or {a: 2, b: 1}; the number says how often a folder passes in an epoch, else 1.
_C.TRAIN.DATASET = OneOf("", (str, list, dict))
# As many record folders of the same lengths: their fields replace or join those of DATASET.
_C.TRAIN.DATASET2 = OneOf("", (str, list))
# Options for caches behind URLs, by name: folder (of the local copies), gib (how many GiB of copies it
# may hold), options (of fsspec's file system, such as {endpoint_url: ...}) and attempts.
_C.TRAIN.REMOTE_CONFIG = CfgNode(new_allowed=True)
# Records whose latents the network cannot take, for their size or channels: refuse, or skip.
_C.TRAIN.OTHER_SHAPES = "refuse"
# How the cache is read: vae_train.
_C.TRAIN.LOADER = "vae_train"
# Options of the loader's class, by name.
_C.TRAIN.LOADER_CONFIG = CfgNode(new_allowed=True)
# Threads that read samples ahead, in each process. 0: read when needed.
_C.TRAIN.NUM_THREADS = 4
# Samples of one micro-batch in each process; the global batch is this times ACCUM_STEPS times the
# number of processes.
_C.TRAIN.BATCH_SIZE = 1
# Decay of the averaged weights at each update: average = decay * average + (1 - decay) * weights.
# 0: no average is kept.
_C.TRAIN.MODEL_EMA = 0.99
# Further decays, each with an average of its own beside MODEL_EMA's: [0.999, 0.9999].
_C.TRAIN.EXTRA_EMA = []
# Where the averaged weights are kept: cpu, or cuda (also called gpu) for the network's own device.
_C.TRAIN.DEVICE_EMA = "gpu"
# Independent draws of noise and timestep for each sample in a step.
_C.TRAIN.LOSS_REPEAT = 4
# How much of the forward pass is computed again in the backward pass to save memory: 0 nothing,
# 1 the MLPs of the video encoder, 2 and those of the image encoder, 3 and the blocks of the decoder.
_C.TRAIN.CHECKPOINTING = 2
# Takes the place of CHECKPOINTING: results that each block keeps while all others of it are computed
# again, of matmul (products and convolutions) and attention. [matmul, attention] costs little time.
_C.TRAIN.CHECKPOINT_KEEP = []
# Probability that a sample's prompt or label is left out, so that guidance can be used later.
_C.TRAIN.TEXT_DROPOUT = 0.1
# Where to begin: auto (the newest complete checkpoint of the experiment folder, if any), none
# (step 0), or the path of a checkpoint or another run, until the experiment folder has gone further.
_C.TRAIN.RESUME = "auto"
# What begins anew at the checkpoint that is resumed: lr (schedule and warm-up), optimizer, ema (at the
# loaded weights), data (another order or other data). Done once in an experiment folder.
_C.TRAIN.RESET = []
# Compile each repeated block of the network with torch.compile.
_C.TRAIN.COMPILE = False
# Let float32 products and convolutions of a GPU round their factors to 10 bits (TF32): faster where
# PRECISION is float32. Off, so that float32 means it; torch by itself would round convolutions.
_C.TRAIN.TF32 = False

# Losses on data that are not trained on.
_C.EVAL = CfgNode()
# Steps between two evaluations; one more before the first step and one at the end. 0: none.
_C.EVAL.EVERY = 0
# The held-out cache or caches, in the form of TRAIN.DATASET.
_C.EVAL.DATASET = OneOf("", (str, list, dict))
# How many of its records are looked at, always the same ones.
_C.EVAL.SAMPLES = 256
# Timesteps at which the loss is measured, from 0 to 1000, which is noise; a curve each.
_C.EVAL.TIMESTEPS = [100, 300, 500, 700, 900]
# Shares of hidden tokens at which it is measured, above 0 and up to 1; a curve each.
_C.EVAL.MASK_RATIOS = [0.7, 0.85, 1.0]

# Pictures or videos that are drawn while a run goes on, with the averaged weights if there are any.
_C.SAMPLE = CfgNode()
# Steps between two times; one more before the first step and one at the end. 0: none.
_C.SAMPLE.EVERY = 0
# A file of prompts (one a line, or JSON lines {"prompt": ...}), or a list of texts, or of classes.
_C.SAMPLE.PROMPTS = OneOf("", (str, list))
# Settings of sampling by name, with the defaults of scripts/generate.py: {num_inference_steps: 64,
# num_diffusion_steps: 25, guidance_scale: 5, max_latent_length: 1, ...}. The seeds count up from RNG_SEED.
_C.SAMPLE.CONFIG = CfgNode(new_allowed=True)

_C.seal()


def get_cfg() -> CfgNode:
    """Return a fresh copy of the defaults, not frozen."""
    return _C.clone()

"""What is learned: a recipe's stage on all ranks, and what the trained model says. And the one command.

```
 cli -> session --------------------> ranks (cluster/launch.py)          demo: data, stages, scores, segment, report
           |                             |
        trainer <- starting <- stages, engine (DeepSpeed), optim <- mesh (Megatron's groups)
           |          |           |
         loss      features     model/     checkpoint/
           |
        metrics, validation -> run folder -> evaluate, generate, report/
```

Training
mesh.py          who we are among the ranks and on what device; the only module that knows devices
zero_config.py   what DeepSpeed is told; parameters partitioned as they are born
engine.py        everything DeepSpeed: birth of parameters, the step, what each rank holds
stages.py        what trains at which rate; the freeze table
optim.py         AdamW's groups and the learning rate over steps
loss.py          the loss rule: a sum over the planned N, never a mean of means
trainer.py       the training loop
passes.py        forward, backward, update of one step
decoder_weights.py  a published language model's weights into a decoder of any topology
encoder_weights.py  a published vision tower's into an encoder
part_weights.py  what both share: each rank takes what it holds
starting.py      the start of a run on one rank, and where training is taken up
reading.py       batches on every rank: in a TP group one reads, the others receive
features.py      a frozen CNN's features, computed once and kept beside the dataset
running.py       a recipe trained into a run folder, as far as it is not done
commits.py       a run's checkpoints as its trainer sees them
checkpoint/      checkpoints that know no topology: written in the background, fenced, found, read by ranges
agree.py         small values that all ranks have to know
guard.py         steps that are not finite, losses that leap
audit.py         silent corruption: replicas compared, a step done twice
stragglers.py    which rank is slow
record.py        what a run says of itself while it trains
goodput.py       where the time of a run went, over all its starts
validation.py    held-out loss, and the same pictures' answers over time
metrics.py       metrics.jsonl, TensorBoard, wandb; useful FLOPs
loads.py         a batch as the cost model's counts
row_loads.py     a plan's rows (or an assumption) as the cost model's counts
memory.py        where a rank's memory goes, and what to say when it runs out
session.py       several jobs in one start of the ranks
restarting.py    local ranks, started again after a failure
attempts.py      starts and failures of a scheduler's job: one that gets nowhere is not queued for ever
run_status.py    how far a run is, for `looksay status`
run_folder.py    the run folder as a contract
provenance.py    commit, versions, system
importing.py     a published model becomes a run at step 0
converting.py    pickled weights become safetensors
joining.py       what the export of a run out of separate parts needs
exporting.py     a run as its family is published
model/           encoder, projector, decoder, and their composition

Answers and scores
generate.py      greedy or sampled answers with a KV cache
answering.py     a run opened for answers, outside ZeRO and TP
asking.py        prompts answered and scored, each run through the model once
evaluate.py      scores of a run
vqa.py           question answering against blind baselines
captions.py      captions of held-out pictures
caption_metrics.py  CIDEr, BLEU, similarity of meaning
heldout.py       loss on held-out samples
retrieval.py     the right caption among a hundred
swap.py          the image-swap test
baselines.py     what can be had without looking
questions.py     each question on its own, in a fresh conversation
pictures.py      pictures as prompts need them, and blank ones
picture_file.py  a picture that a user names
shares.py        work dealt over the ranks
picture_score.py  scores of pictures for a data build: does it show one clear thing?
showcase.py      one question, two pictures and a blank one for the report

What people use
demo.py          the whole job on embedded real data
demo_segment.py  the proof of exact resume: a rank is killed
demo_summary.py  summary.json and predictions.jsonl
inspect.py       one sample as the model sees it
shapes.py        its shapes after each part, by arithmetic
report/          one self-contained page
doctor/          what this machine reaches, measured by local ranks
cli/             the command
"""

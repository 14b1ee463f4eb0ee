"""A study that runs in seconds."""

STUDY = """# A study of seconds
title: Tiny
seeds: 2
budget: {steps: 300, validations: 2}
variants:
  pretrained: {title: no training, make: pretrain}
  reinforce: {title: REINFORCE, make: finetune, parent: pretrained, algorithm: reinforce}
environments:
  ReFiT-Synthetic-v0:
    models:
      diffrec:
        options: {hidden: [16], num_steps: 5}
        pretrain: {epochs: 1}
        env: {reward: ndcg, relevance: recent}
        variants:
          reinforce: {users_per_batch: 16}
tables:
  - {kind: rows, title: "On {env}", each: true, columns: [ndcg@20, ndcg@20 gain, steps]}
"""
"""REINFORCE on the synthetic set, two seeds."""

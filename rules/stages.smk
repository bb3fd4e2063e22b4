# All rules but the first, rule all, which both Snakefiles state themselves
include: "data.smk"
include: "folds.smk"
include: "models.smk"
include: "evaluation.smk"
include: "tables.smk"
include: "leaderboard.smk"
include: "figures.smk"
include: "legacy.smk"

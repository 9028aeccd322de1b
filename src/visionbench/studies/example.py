"""The study files that `visionbench study new` writes."""

EXAMPLE = """\
# visionbench study run configs/studies/NAME.yaml
# A study repeats a published table. Change this example line by line; it runs as it is, in one to three minutes.

title: Width and dropout of a small MLP on scikit-learn's digits
source: Course, lab, date and question of the report that is repeated
seeds: [0, 1, 2, 3, 4] # each cell is trained once for each seed
choices: # what the report does not say, and what you chose
  - "Learning rate 0.001, the library's default."

base: # a run file, as for visionbench fit --config; visionbench fit --help names the options
  data: {class_path: Digits, init_args: {batch_size: 64}}
  model:
    class_path: MLP
    init_args: {widths: [32], optimizer: {class_path: Adam, init_args: {lr: 0.001}}}
  trainer: {max_epochs: 5, precision: 32-true}

grid: # axes of the table; each label says which options it sets, by their names on the command line
  width:
    32: {model.widths: [32]}
    64: {model.widths: [64]}
  dropout:
    without: {}
    with: {model.dropout: 0.5}

protocols: # what the report did, its mistakes included, and what it should have done
  reported:
    # defects:
    #   double_softmax: softmax under the cross-entropy; the word is also what fit calls it, and allows it here
    # set: {model: NAME_with_underscores.MyModel} # a class in a Python file beside this one
  corrected:
    set: {trainer.max_epochs: 8}

stages: # in their order
  candidates: {grid: [width, dropout], test: false} # every cell of the grid; nothing is tested
  final: {best_of: candidates, by: val/acc, test: true} # the best cell, trained again and tested once

published: # as they are printed, accuracies in percent: 94.4 stands for 94.35 to 94.45
  protocol: reported
  candidates:
    - [width, dropout, val/acc]
    - [32, without, 94.4]
    - [32, with, 89.6]
    - [64, without, 95.1]
    - [64, with, 92]
  final:
    - [test/acc]
    - [96.4]

judged: [val/acc, test/acc] # measures that get a verdict; the others are shown
tolerance: 5.0 # largest half-width, in points, of the interval for one more run with which a value counts as reproduced
figures: {candidates: [learning-curves, main-effects], final: [learning-curves, test-confusion]}
"""

COMPARISON = """\
# visionbench study run configs/studies/NAME.yaml
# A study that compares models of your own. Change this example line by line; it runs as it is, in two to four minutes.

title: MLP or CNN on scikit-learn's digits
seeds: [0, 1, 2, 3, 4] # chosen before the first run; each cell is trained once for each seed and fold

base: # a run file, as for visionbench fit --config; visionbench fit --help names the options
  # images of yours: {class_path: ImageFolder, init_args: {source: photos, size: 32, batch_size: 16}}
  # a table of yours: {class_path: Table, init_args: {source: table.csv, target: COLUMN, batch_size: 32}}
  data: {class_path: Digits, init_args: {batch_size: 64}}
  model: MLP
  trainer: {max_epochs: 3, precision: 32-true}

grid: # what is compared; each label says which options it sets, by their names on the command line
  network:
    mlp: {model: {class_path: MLP, init_args: {widths: [64]}}}
    cnn: {model: {class_path: CNN, init_args: {dense: 32}}}

stages:
  # 2 cells x 5 seeds x 5 folds are 50 runs. Each fold is tested by the runs that did not train on it.
  networks: {grid: [network], folds: 5, set: {data.fold_is: test}, test: true}

figures: {networks: [learning-curves, test-confusion]}
"""

GRID = """\
# visionbench study run configs/studies/NAME.yaml
# A grid search without a published table. Change this example line by line; it runs as it is, in one to three minutes.

title: Width, dropout and learning rate of an MLP on scikit-learn's digits
seeds: [0, 1, 2] # chosen before the first run; each cell is trained once for each seed

base: # a run file, as for visionbench fit --config; visionbench fit --help names the options
  # images of yours: {class_path: ImageFolder, init_args: {source: photos, size: 32, batch_size: 16}}
  # a table of yours: {class_path: Table, init_args: {source: table.csv, target: COLUMN, batch_size: 32}}
  data: {class_path: Digits, init_args: {batch_size: 64}}
  model: MLP
  trainer: {max_epochs: 5, precision: 32-true}

grid: # axes; each label says which options it sets, by their names on the command line
  width:
    32: {model.widths: [32]}
    64: {model.widths: [64]}
  dropout:
    without: {}
    with: {model.dropout: 0.5}
  learning-rate:
    0.001: {model.optimizer.lr: 0.001}
    0.004: {model.optimizer.lr: 0.004}

stages: # in their order
  # 8 cells x 3 seeds are 24 runs; nothing is tested, so that the choice cannot use test images
  candidates: {grid: [width, dropout, learning-rate], test: false}
  final: {best_of: candidates, by: val/acc, test: true} # the cell with the best mean, trained again and tested once

figures: {candidates: [learning-curves, main-effects], final: [learning-curves, test-confusion]}
"""

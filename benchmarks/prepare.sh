#!/bin/sh
# Converts the five folders of benchmark data: sh benchmarks/prepare.sh FOLDER [DATASETS]
# FOLDER holds amazon_beauty_2014, amazon_sports_2014, ml1m, food_kitchen_abxi and trigrec_food_kitchen;
# DATASETS is where they go, dataset_atomic by default. NESTREC names the command where it is not on the path.
set -eu
from=${1:?"usage: sh benchmarks/prepare.sh FOLDER [DATASETS]"}
to=${2:-dataset_atomic}
nestrec=${NESTREC:-nestrec}

$nestrec convert sequences "$from/amazon_beauty_2014/sequences.txt" --name beauty --data-path "$to" \
  --items "$from/amazon_beauty_2014/items.jsonl" --fields title attributes

$nestrec convert sequences "$from/amazon_sports_2014/sequences.txt" --name sports --data-path "$to" \
  --items "$from/amazon_sports_2014/idgenrec_keywords.tsv" --item-columns item_id asin keywords --fields keywords

# Without times: the files give the order only.
$nestrec convert sequences "$from/ml1m/sequences.txt" --name ml1m --data-path "$to" \
  --items "$from/ml1m/items.jsonl" --fields title genres plot director actors \
  --users "$from/ml1m/users.dat" --user-columns user_id gender age occupation zip_code \
  --user-fields gender age occupation:token zip_code:token \
  --images "$from/ml1m/posters_w160"

$nestrec convert sequences "$from/food_kitchen_abxi/sequences_ts.txt" --name food-kitchen --data-path "$to" \
  --items "$from/food_kitchen_abxi/items.jsonl" --fields domain title

# Its users are windows of fewer histories: trigrec is as its authors have it, trigrec-distinct keeps one user of each.
# Both are converted once with either domain first: without times, a user's last items of the second one are taken for
# the later ones.
pickles() {  # NAME FIRST SECOND OPTIONS...
  name=$1 first=$2 second=$3
  shift 3
  $nestrec convert pickles "$from/trigrec_food_kitchen/${first}_all.pkl" "$from/trigrec_food_kitchen/${second}_all.pkl" \
    --domains "$first" "$second" --name "$name" --data-path "$to" "$@" \
    --merged "$from/trigrec_food_kitchen/cross_f_train.pkl" "$from/trigrec_food_kitchen/cross_k_train.pkl"
}
pickles trigrec food kitchen
pickles trigrec-kitchen kitchen food
pickles trigrec-distinct food kitchen --distinct-runs 2
pickles trigrec-distinct-kitchen kitchen food --distinct-runs 2

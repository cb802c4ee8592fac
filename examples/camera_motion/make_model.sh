#!/usr/bin/env bash
# Make the camera-motion model that the package ships, in under two hours on two CPU cores:
#     examples/camera_motion/make_model.sh WORK
# This downloads pictures, trains the model and measures it, all in the folder WORK. The same command continues an
# interrupted run. With --ship as a second argument the model then replaces timesformer_hf/camera_motion.
set -euo pipefail
work=${1:?give a folder to work in}
here=$(dirname "$0")
mkdir -p "$work"
resume=()
[ -d "$work/model" ] && resume=(--resume)

python "$here/sources.py" "$work/pictures" || [ $? -eq 1 ] # exit code 1: some pictures could not be downloaded; go on without them
[ -d "$work/motion-32" ] || python "$here/pretrain.py" "$work/pictures" "$work/motion-32" --size 32 --steps 2500 --compile
[ -d "$work/motion-64" ] || python "$here/pretrain.py" "$work/pictures" "$work/motion-64" --size 64 --steps 900 \
  --model "$work/motion-32" --learning-rate 3e-4 --compile
python "$here/make_data.py" "$work/pictures" "$work/clips"
[ -f "$work/model/results.json" ] || python -m timesformer_hf finetune --recipe scratch --model "$work/motion-64" \
  --data "$work/clips/train" --validation_data "$work/clips/validation" --output_dir "$work/model" "${resume[@]}" \
  --num_train_epochs 3 --learning_rate 2e-4 --per_device_train_batch_size 32 --frame_sampling_rate 4
for set in test test_compressed test_foreground; do
  [ -f "$work/$set/results.json" ] || python -m timesformer_hf evaluate --model "$work/model" --data "$work/clips/$set" --output_dir "$work/$set"
done
[ "${2:-}" != --ship ] || python "$here/ship.py" "$work"

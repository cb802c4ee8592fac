"""
From video files to `pixel_values`: frames are chosen, decoded, resized, cropped and normalised.

These files may import only each other, and only as `from .sibling import`, because transformers copies them into the
folder of a saved model. Start with `video_processing_timesformer.py`. A video file goes through `video_sources`,
`video_stream`, `video_packets` (with `picture_order`), `decoding_plan`, `video_decoding` (with `decoder_output`) and
`clip_processing`, in this order.
"""

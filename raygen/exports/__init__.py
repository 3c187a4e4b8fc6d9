"""What a run made, for use elsewhere: its pictures, and its classifiers.

    pictures.py    a run folder -> which pictures, what is known of each
    shards.py      pictures -> Parquet, Hugging Face's Parquet, WebDataset
    folders.py     pictures -> folders of classes
    card.py        pictures -> a dataset card
    writing.py     all of it -> a folder at a path or URL
    classifiers.py a run's classifier -> safetensors, Hugging Face's folder
    command.py     `raygen export`

Reads finished runs only: nothing here decides a result.
"""

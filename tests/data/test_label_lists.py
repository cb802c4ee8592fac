"""The lists of labels that are shipped."""

from timesformer_hf.data.label_lists import LABEL_LISTS, read_labels


def test_shipped_lists_have_as_many_labels_as_their_data_sets():
    assert {name: len(read_labels(name)) for name in LABEL_LISTS} == {
        "diving48": 48,
        "hmdb51": 51,
        "kinetics400": 400,
        "kinetics600": 600,
        "ssv2": 174,
        "ucf101": 101,
    }

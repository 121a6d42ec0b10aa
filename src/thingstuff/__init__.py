"""Panoptic segmentation that installs, trains, predicts and scores."""

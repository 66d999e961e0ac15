"""Small labelled files, one for each task, written for tunesmith; `tunesmith sample TASK` prints them."""

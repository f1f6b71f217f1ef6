"""What works and is tested, but whose use in practice no machine of the authors could time.

Packs of small runs on one GPU (`packs`) and several devices for one run (`devices`, `torchrun`). Each may be
changed or removed without notice, its speed is not promised, and nothing outside of it is needed to train a run on
one device. Its tests are in `tests/experimental`, the emulators of processors that run some of them in
`tools/experimental`.
"""

"""The op set on Ascend: thin typed wrappers of torch_npu's fused operators. Imported on demand only."""

"""Names of config.json's keys that several families read, for the rows of ``families.py``."""

from __future__ import annotations

ROPE = ("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor")
DECODER = (*ROPE, "num_key_value_heads", "head_dim", "rms_norm_eps")
WINDOWS = ("use_sliding_window", "sliding_window", "layer_types", "max_window_layers")
GEMMA3 = (
    *("attention_bias", "hidden_activation", "query_pre_attn_scalar", "sliding_window", "final_logit_softcapping"),
    "layer_types",
)
GEMMA = (*GEMMA3, "attn_logit_softcapping")
EXPERTS = (
    *("num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob", "decoder_sparse_step"),
    "mlp_only_layers",
)
FACTORS = ("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling")
BERT = ("layer_norm_eps", "type_vocab_size", "position_embedding_type")
GTE = (*ROPE, *BERT, "pack_qkv", "layer_norm_type", "logn_attention_scale")
NOMIC = (
    *("prenorm", "rotary_emb_fraction", "rotary_emb_interleaved", "rotary_scaling_factor", "use_rms_norm"),
    *("parallel_block", "qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias", "num_experts", "moe_every_n_layers"),
)
DISTILBERT_NAMES = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size",
    "activation": "hidden_act",
}
NOMIC_NAMES = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_positions": "max_position_embeddings",
    "activation_function": "hidden_act",
    "layer_norm_epsilon": "layer_norm_eps",
    "rotary_emb_base": "rope_theta",
}
"""As GPT-2 calls them, in the files that Nomic's own code wrote."""
NOMIC_UNREAD = (
    *("use_xentropy", "fused_bias_fc", "fused_dropout_add_ln", "max_trained_positions", "moe_top_k"),
    *("scale_attn_by_inverse_layer_idx", "scale_attn_weights", "reorder_and_upcast_attn", "dense_seq_output"),
    *("pad_vocab_size_multiple", "last_layer_subset", "summary_type", "summary_use_proj"),
    *("summary_activation", "summary_proj_to_labels", "mlp_residual_dropout", "expert_choice_router"),
    *("ffn_div", "moe_normalize_expert_weights", "moe_resid_pdrop", "moe_impl", "router_aux_loss_coef"),
    "use_flash_attn",
)
MODERNBERT = (
    *("hidden_activation", "norm_eps", "norm_bias", "attention_bias", "mlp_bias", "layer_types"),
    *("rope_parameters", "local_attention", "global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"),
    *("classifier_bias", "classifier_activation"),
)
DEBERTA = (
    *("layer_norm_eps", "type_vocab_size", "relative_attention", "max_relative_positions", "position_buckets"),
    *("position_biased_input", "pos_att_type", "share_att_key", "norm_rel_ebd", "conv_kernel_size"),
    *("embedding_size", "pooler_hidden_act"),
)

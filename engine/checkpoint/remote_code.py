"""``auto_map`` of config.json: code beside the weights that is the model for its authors. It is never run.

A checkpoint that names code is served only where that code is known and written here anew: as a network, or as the
recipe of a published model. Otherwise its scores would be those of another model.
"""

from __future__ import annotations

from engine.checkpoint.families import Family
from engine.checkpoint.files import CheckpointFiles
from engine.checkpoint.identity import Identity
from engine.errors import ConfigError

KEY = "auto_map"
_NEW = ("Config", "Model", *(f"For{task}" for task in ("MaskedLM", "SequenceClassification", "TokenClassification")))
_JINA_BERT = ("ForSequenceClassification", "Model", "ForMaskedLM")
_NOMIC = ("ForPreTraining", "ForSequenceClassification", "Model")
_EURO_BERT = ("ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "Model", "PreTrainedModel")
_JINA = ("XLMRobertaForSequenceClassification", "XLMRobertaModel", "XLMRobertaForMaskedLM")
NETWORKS: dict[str, frozenset[str]] = {
    "Qwen3": frozenset({"modeling.JinaForRanking"}),
    "Qwen2VL": frozenset({"modeling.JinaVLForRanking"}),
    "New": frozenset(
        {
            "configuration.NewConfig",
            *(f"modeling.New{name}" for name in (*_NEW, "ForMultipleChoice", "ForQuestionAnswering")),
        }
    ),
    "LlamaBidirectional": frozenset(
        f"llama_bidirectional_model.LlamaBidirectional{name}"
        for name in ("Config", "ForSequenceClassification", "Model")
    ),
    "JinaBert": frozenset(
        {"configuration_bert.JinaBertConfig", *(f"modeling_bert.JinaBert{name}" for name in _JINA_BERT)}
    ),
    "NomicBert": frozenset(
        {
            "configuration_hf_nomic_bert.NomicBertConfig",
            *(f"modeling_hf_nomic_bert.NomicBert{name}" for name in _NOMIC),
        }
    ),
    "EuroBert": frozenset(
        {"configuration_eurobert.EuroBertConfig", *(f"modeling_eurobert.EuroBert{name}" for name in _EURO_BERT)}
    ),
    "XLMRoberta": frozenset(
        {"configuration_xlm_roberta.XLMRobertaFlashConfig", *(f"modeling_xlm_roberta.{name}" for name in _JINA)}
    ),
}
"""By body: classes of published code for networks that ``backends/models`` has."""


def check_remote_code(
    files: CheckpointFiles, family: Family, identity: Identity | None, ignored: tuple[str, ...]
) -> None:
    """Raises ``ConfigError`` for a class of ``auto_map`` that is not known; tokenizers are read from their own file."""
    if KEY in ignored:
        return
    model = identity.model if identity else None
    known = NETWORKS.get(family.body, frozenset()) | frozenset(model.remote_code if model else ())
    for auto, name in files.remote_code.items():
        if auto != "AutoTokenizer" and name.rpartition("--")[2] not in known:
            raise ConfigError(
                f"config.json of {files.label} says with {KEY} that its model is the class {name} in a file beside the "
                f"weights. Such code is never run, and nothing is known of this one, so the scores of the plain "
                f"{family.body} network might be others than its authors'. If they are the same, pass "
                f"--ignore-config-key {KEY}.",
                param="model",
            )

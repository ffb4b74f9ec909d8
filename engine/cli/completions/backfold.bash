# bash completion for backfold. Printed by: backfold completion bash

_backfold() {
    local candidate
    COMPREPLY=()
    while IFS= read -r candidate; do
        case $candidate in
            $'\tfiles') compopt -o default ;;
            $'\tfolders') compopt -o dirnames ;;
            *) COMPREPLY+=("$candidate") ;;
        esac
        # A path follows.
        [[ $candidate == *= ]] && compopt -o nospace
    done < <(
        _BACKFOLD_COMPLETE=bash _BACKFOLD_LINE=${COMP_LINE:0:COMP_POINT} \
            _BACKFOLD_COMMAND=$1 _BACKFOLD_WORD=$2 \
            "$1" 2>/dev/null </dev/null
    )
}
complete -o nosort -F _backfold backfold

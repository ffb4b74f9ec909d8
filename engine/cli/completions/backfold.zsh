#compdef backfold
# zsh completion for backfold. Printed by: backfold completion zsh

_backfold() {
    local candidate
    local -a values descriptions parts partly
    for candidate in "${(@f)$(
        _BACKFOLD_COMPLETE=zsh \
            _BACKFOLD_LINE="${(j: :)words[1,CURRENT-1]} $PREFIX" \
            _BACKFOLD_COMMAND=${words[1]} \
            "${(Q)words[1]}" 2>/dev/null </dev/null
    )}"; do
        case $candidate in
            '') ;;
            $'\tfiles') compset -P '*='; _files; return ;;
            $'\tfolders') compset -P '*='; _files -/; return ;;
            *=$'\t'*)
                parts+=("${candidate%%$'\t'*}")
                partly+=("${candidate/$'\t'/  -- }")
                ;;
            *)
                values+=("${candidate%%$'\t'*}")
                descriptions+=("${candidate/$'\t'/  -- }")
                ;;
        esac
    done
    (( $#values )) && compadd -V backfold -l -d descriptions -a values
    # A path follows.
    (( $#parts )) && compadd -V backfold -S '' -l -d partly -a parts
}

if [[ $funcstack[1] == _backfold ]]; then
    _backfold "$@"
else
    compdef _backfold backfold
fi

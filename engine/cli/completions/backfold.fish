# fish completion for backfold. Printed by: backfold completion fish

function __backfold_complete
    set -l words (commandline -opc)
    set -l line (commandline -cp | string collect)
    set -l found (env _BACKFOLD_COMPLETE=fish _BACKFOLD_LINE=$line \
        _BACKFOLD_COMMAND=$words[1] $words[1] 2>/dev/null </dev/null)
    # A path may follow an equal sign.
    set -l token (commandline -ct)
    set -l before (string match --regex -- '^[^=/]*=' $token)
    set -l path (string replace --regex -- '^[^=/]*=' '' $token)
    switch "$found[1]"
        case \tfiles
            string replace --regex -- '^' "$before" (__fish_complete_path $path)
        case \tfolders
            string replace --regex -- '^' "$before" (__fish_complete_directories $path)
        case '*'
            printf '%s\n' $found
    end
end
complete --command backfold --no-files --keep-order --arguments '(__backfold_complete)'

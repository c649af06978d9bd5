# fish completion for byway(8). `byway complete` knows the words.

function __byway_complete
    set -l words (commandline --tokenize --cut-at-cursor --current-process)
    set -l current (commandline --current-token --cut-at-cursor)
    set -l lines (command $words[1] complete -- $words[2..] $current 2>/dev/null)
    if test "$lines[1]" = :files
        __fish_complete_path $current
    else
        printf '%s\n' $lines
    end
end

complete --command byway --no-files --keep-order --arguments '(__byway_complete)'

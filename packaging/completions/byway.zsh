#compdef byway
# zsh completion for byway(8). `byway complete` knows the words.

_byway() {
    local line word help
    local -a lines candidates
    lines=("${(@f)$(${(Q)words[1]} complete -- "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
    if [[ $lines[1] == :files ]]; then
        _files
        return
    fi
    for line in $lines; do
        word=${line%%$'\t'*} help=${line#*$'\t'}
        # `_describe` takes what is behind the first bare colon for the description.
        candidates+=("${word//:/\\:}${help:+:$help}")
    done
    _describe -V 'byway' candidates
}

# Either zsh has loaded this file as the function, or somebody reads it with `source`.
if [[ $funcstack[1] == _byway ]]; then
    _byway "$@"
else
    compdef _byway byway
fi

// Which instruction set to use: the best one this processor has, or the one that was asked for.
#pragma once

#include <string>
#include <vector>

#include "kernel_table.h"

namespace engine_cpu {

// Names of the tables that are built in and that this processor can run, best first; "portable" is always last.
std::vector<std::string> available_isas();

// An empty name takes the best. Throws std::invalid_argument with a sentence for a person.
const KernelTable& select_table(const std::string& isa);

}  // namespace engine_cpu
